"""Where results that are answered by URL lie."""
