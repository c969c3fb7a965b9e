"""What papers claim of the methods of the atlas, at lengths that it has; `benchmarks.claims` says what records say."""

from __future__ import annotations

from benchmarks.claims import Better, Claim, Falls, Holds, Keeps

PLAN = "dca+logn"  # that methods of content stand on
CODES, BOOKS, WORDS = "needle:protocol=codes_64", "pg19", "needle"


def _arxiv(number: str) -> str:
    return f"[{number}](https://arxiv.org/abs/{number})"


SU = "[Su 2023](https://kexue.fm/archives/8823)"
RERULE = "[Su 2023](https://kexue.fm/archives/9708)"
EXTEND, DCA, YARN, STREAMING = map(_arxiv, ("2401.01325", "2402.17463", "2309.00071", "2309.17453"))
CONTENT = {  # what stands on the plan, and who says that it keeps what the plan retrieves
    "minference": _arxiv("2407.02490"),
    "xattention": _arxiv("2503.16428"),
    "quest:token_budget=64": _arxiv("2406.10774"),
    "snapkv:budget=128,window_size=8,kernel_size=15": _arxiv("2404.14469"),
    "h2o:compression_ratio=0.25": _arxiv("2306.14048"),
    "expected_attention:compression_ratio=0.25": _arxiv("2510.00636"),
    "knorm:compression_ratio=0.25": _arxiv("2406.11430"),
}
CLAIMS: tuple[Claim, ...] = (
    Falls("A model breaks past its trained length", "vanilla", 2, _arxiv("2108.12409")),
    Falls("PI fails without tuning", "pi", 2, YARN),
    Better("NTK-aware scaling extends without tuning", "vanilla", "ntk", 2, YARN),
    Better("YaRN beats NTK-aware scaling", "ntk", "yarn", 4, YARN),
    Better("YaRN beats NTK-aware scaling: perplexity", "ntk", "yarn", 4, YARN, BOOKS),
    Better("Resonance improves YaRN: words", "yarn", "yarn+resonance", 4, _arxiv("2403.00071"), WORDS),
    Better("Resonance improves YaRN: perplexity", "yarn", "yarn+resonance", 4, _arxiv("2403.00071"), BOOKS),
    Better("DroPE needs recalibration", "drope", "vanilla", 1, _arxiv("2512.12167")),
    Better("STRING improves within the trained length: words", "vanilla", "string", 1, _arxiv("2410.18745"), WORDS),
    Holds("Self-Extend holds without tuning", "self_extend", 4, EXTEND),
    Holds("DCA holds without tuning", "dca", 4, DCA),
    Holds("ReRoPE holds without tuning", "rerope", 4, RERULE),
    Holds("ReRoPE holds at any length", "rerope", 16, RERULE),
    Holds("Leaky ReRoPE holds without tuning", "leaky_rerope", 4, RERULE),
    Holds("InfLLM holds at any length", "infllm", 16, _arxiv("2402.04617")),
    Better("Log-length scaling helps NTK", "ntk", "ntk+logn", 4, SU),
    Better("Log-length scaling helps DCA", "dca", "dca+logn", 16, SU),
    Better("Log-length scaling helps DCA: one of 64 codes", "dca", "dca+logn", 16, SU, CODES),
    Better("Log-length scaling helps Self-Extend: words", "self_extend", "self_extend+logn", 16, SU, WORDS),
    Better("Log-length scaling helps Leaky ReRoPE", "leaky_rerope", "leaky_rerope+logn", 16, SU),
    Holds("StreamingLLM keeps perplexity", "streaming", 16, STREAMING, BOOKS),
    Falls("StreamingLLM does not remember what left its window", "streaming", 4, STREAMING),
    Holds("LM-Infinite keeps perplexity", "lm_infinite", 16, _arxiv("2308.16137"), BOOKS),
    Falls("LM-Infinite needs more keys for passkeys", "lm_infinite", 4, _arxiv("2308.16137")),
    *(
        Keeps(
            f"`{name.partition(':')[0]}` keeps what its plan retrieves: {what}", PLAN, f"{PLAN}+{name}", 4, source, task
        )
        for name, source in CONTENT.items()
        for what, task in (("passkeys", "passkey"), ("words", WORDS))
    ),
)
