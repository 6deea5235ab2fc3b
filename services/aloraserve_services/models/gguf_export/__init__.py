"""A base model and its adapters as GGUF, the files of llama.cpp."""
