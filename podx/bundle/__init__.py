"""The exported folder and the tables in it."""
