"""Claims, what they measure, and how a run of them is measured and judged."""
