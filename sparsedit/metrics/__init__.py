"""How alike two pictures are. Knows arrays, no models and no runs."""
