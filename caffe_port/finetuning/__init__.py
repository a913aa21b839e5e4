"""Fine-tuning a classifier on one's own images: `caffe-port finetune`, and its parts.

- `data`: folders and CSV files to images with labels, checked, and split without leaks
- `nets`: a deploy net to the one that is trained: new head, multipliers, frozen layers, class weights
- `augmentation`: training images at random scales, cropped and mirrored at random
- `evaluation`: a net on the validation images, and what its probabilities say
- `recipe`: what can be chosen
- `run`: the files of a run, and its training
- `finishing`: the best weights measured, written, verified
- `report`: what came of it, as Markdown and JSON

Importing this package imports no torch; importing `evaluation`, `run` and what is made of them does.
"""
