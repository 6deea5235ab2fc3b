"""The HTTP edge: who calls, what is asked, where it goes and how the answer is written."""
