"""How good and how fast tail fits are, and how fast the reports made of them."""
