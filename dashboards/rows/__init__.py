"""The rows of the board, from above down: what each panel asks, a file a row."""
