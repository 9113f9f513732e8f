"""Is the residual scale of a model really applied, and how often?"""
