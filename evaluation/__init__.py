"""Labelled questions in, figures out: how well passages are found and questions answered. Nothing below knows of it."""
