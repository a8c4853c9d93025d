"""Numerics: arrays in, arrays out. No classes, no files, no units."""
