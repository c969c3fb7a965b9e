"""KV caches: preallocated buffers, dropping of keys that no later query sees, eviction, and memory search."""
