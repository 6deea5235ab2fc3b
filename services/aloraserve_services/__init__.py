"""Runtime: wiring and I/O around ``aloraserve``; the one door to Ray, vLLM and uvicorn."""
