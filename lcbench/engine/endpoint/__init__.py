"""A model behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, transformers serve, TGI, or an API."""
