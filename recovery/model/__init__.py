"""The embedding model and its vectors: what is wrong with them, and putting them back."""
