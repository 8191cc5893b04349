"""How the embedded demo model was made: data, training, export and scoring. Not part of the installed package."""
