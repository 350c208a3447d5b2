"""Judgement: what is wrong with the state, what to do about it, and the surfaces that users touch."""
