"""Tests of the operations of an operator."""
