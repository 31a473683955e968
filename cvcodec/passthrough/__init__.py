"""Sound and the rest past the model: what is copied from a source beside its picture, behind one door each way.

    encode   recorder.Recorder    packets that `VideoReader` delivers -> records, in front of the chunks they belong to
    decode   player.Player        records -> packets of the container that `VideoWriter` writes

`streams` has the nouns, `records` their bytes, `packet_queue` where packets wait, `carrier` how codec parameters are
kept.
"""
