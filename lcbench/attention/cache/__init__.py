"""KV caches that grow in preallocated buffers, drop what no later query sees, and are searched."""
