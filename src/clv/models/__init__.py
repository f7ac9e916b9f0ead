"""What learns: buy-till-you-die, value, payment and prospect models, and the exact Shapley values of their outputs."""
