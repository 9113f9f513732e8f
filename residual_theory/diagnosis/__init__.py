"""What law a model's stream follows, and where more loops lead."""
