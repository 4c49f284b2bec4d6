"""The runs behind the book's tables and figures; each file can be run again by anyone."""
