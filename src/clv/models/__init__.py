"""What learns: models of value, payment and prospects, and the exact Shapley values of what they say."""
