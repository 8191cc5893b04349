"""What an edit costs, stage by stage, dense and thin: multiply-adds, bytes, memory and seconds, as one record."""
