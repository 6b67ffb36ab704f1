"""`python -m serve.metrics` writes the page that describes the metrics."""

from serve.metrics.page import PATH, page

if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
