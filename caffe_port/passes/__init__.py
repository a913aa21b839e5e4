"""Changes to a net that keep its meaning and may change its last digits. One pass a file; none runs unasked."""
