"""Recordings of a keyword, by the microphone or from files, checked take by take; imports training.data.

    recordings/<word>/<speaker>_nohash_<n>.wav          takes, 16 kHz, spaces in the word as underscores
    recordings/_talk_/<word>/<speaker>_nohash_<n>.wav   pieces of what the same people say besides

This is Speech Commands' layout, so `training.data.find(folder, ["recordings"], words=True)` reads the takes and
`training.data.find(folder, ["recordings/_talk_/<word>"])` the talk.
"""
