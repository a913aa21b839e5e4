"""Nets side by side: what they cost, how accurate they are published to be, and the figure of both."""
