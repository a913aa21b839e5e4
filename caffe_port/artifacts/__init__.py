"""The files a conversion makes: which there are, in which forms, and how each is run again to be verified.

`form` says what can be asked for; `draft` what every writer gives back; the other modules are the writers, one for each
family of files. `caffe_port.conversion` puts them together.
"""
