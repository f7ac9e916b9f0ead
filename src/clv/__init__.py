"""Customer value: grades, and the reasons for them."""
