// Cooley and Tukey, 1965, for mixed factors: a transform of length p m is p transforms of length m, combined.
#include "fourier.h"

#include <cmath>

namespace tokexport {

Fourier::Fourier(int length) : turns_(static_cast<std::size_t>(length)) {
    for (int factor = 2, rest = length; rest > 1;) {
        if (rest % factor == 0) {
            factors_.push_back(factor);
            rest /= factor;
        } else {
            factor = factor * factor > rest ? rest : factor + 1;
        }
    }
    const double circle = 2 * std::acos(-1.0);
    for (int k = 0; k < length; ++k) turns_[k] = std::polar(1.0, -circle * k / length);
}

std::vector<std::complex<double>> Fourier::operator()(const std::vector<double>& values) const {
    std::vector<Complex> out(turns_.size());
    transform(values.data(), 1, 0, static_cast<int>(turns_.size()), out.data());
    return out;
}

void Fourier::transform(const double* values, int stride, std::size_t factor, int length, Complex* out) const {
    if (length == 1) {
        *out = *values;
        return;
    }
    const int parts = factors_[factor], inner = length / parts;
    for (int part = 0; part < parts; ++part)
        transform(values + part * stride, stride * parts, factor + 1, inner, out + part * inner);
    std::vector<Complex> column(static_cast<std::size_t>(parts));
    for (int f = 0; f < inner; ++f) {
        for (int part = 0; part < parts; ++part) column[part] = out[part * inner + f];
        for (int block = 0; block < parts; ++block) {
            Complex sum = 0;
            for (int part = 0; part < parts; ++part) {
                // `turns_` has the roots of the whole length; those of this part are `stride` apart.
                const std::size_t turn = std::size_t(part) * (f + block * inner) % length * stride;
                sum += column[part] * turns_[turn];
            }
            out[block * inner + f] = sum;
        }
    }
}

}  // namespace tokexport
