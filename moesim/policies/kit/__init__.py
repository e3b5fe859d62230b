"""Pieces that policies of several families share: placement, sizing, caches, predictors, schedules."""
