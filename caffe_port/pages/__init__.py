"""Results as HTML pages: one file each, that opens without a network, on a phone, in the dark and on paper."""
