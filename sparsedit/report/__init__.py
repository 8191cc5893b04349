"""What records say, shown: tables for terminals and files, and a page. Pure functions of records; knows no models."""
