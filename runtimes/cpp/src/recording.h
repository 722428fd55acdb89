// Long sounds, piece by piece (runtimes/media/recording.py).
#pragma once

#include <cstddef>
#include <vector>

#include "tokexport/media.h"

namespace tokexport {

// A part of a sound, in samples from its beginning.
struct Piece {
    std::size_t begin, end;
};

// Pieces of at most `room` samples, each cut at the quietest place of the last third of its room.
std::vector<Piece> pieces(const Sound& sound, std::size_t room);

// Whether nothing in a piece is louder than -60 dB below full scale.
bool is_silent(const Sound& sound);

}  // namespace tokexport
