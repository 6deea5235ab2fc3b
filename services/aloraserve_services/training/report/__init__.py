"""Reports of evaluations and rank studies, as Markdown and as one HTML page."""
