"""The defects that planted_defects.py plants, by where they are."""
