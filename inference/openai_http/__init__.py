"""The OpenAI HTTP protocol as its client must know it: bodies, event streams, errors. Pure; ``vllm.py`` does I/O."""
