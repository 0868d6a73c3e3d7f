"""How well tail fits keep their promises, and how fast they and the reports made of them are."""
