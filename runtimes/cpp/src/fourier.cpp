// Cooley and Tukey, 1965, for mixed factors: a transform of length p m is p transforms of length m, combined.
#include "fourier.h"

#include <cmath>

namespace tokexport {
namespace {

// The operator of std::complex looks for infinities, which costs more than the product.
std::complex<double> times(const std::complex<double>& a, const std::complex<double>& b) {
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

}  // namespace

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
    std::vector<Complex> out(turns_.size()), column(turns_.size());
    transform(values.data(), 1, 0, static_cast<int>(turns_.size()), out.data(), column.data());
    return out;
}

void Fourier::transform(const double* values, int stride, std::size_t factor, int length, Complex* out,
                        Complex* column) const {
    if (length == 1) {
        *out = *values;
        return;
    }
    const int parts = factors_[factor], inner = length / parts;
    for (int part = 0; part < parts; ++part)
        transform(values + part * stride, stride * parts, factor + 1, inner, out + part * inner, column);
    // `turns_` has the roots of the whole length; those of this part are `stride` apart.
    const auto turn = [&](std::size_t at) { return turns_[at * stride]; };
    for (int f = 0; f < inner; ++f) {
        if (parts == 2) {
            const Complex even = out[f], odd = times(out[inner + f], turn(f));
            out[f] = even + odd;
            out[inner + f] = even - odd;
            continue;
        }
        for (int part = 0; part < parts; ++part) column[part] = out[part * inner + f];
        for (int block = 0; block < parts; ++block) {
            const std::size_t step = f + block * inner;
            Complex sum = column[0];
            std::size_t at = 0;
            for (int part = 1; part < parts; ++part) {
                at += step;
                if (at >= static_cast<std::size_t>(length)) at -= length;
                sum += times(column[part], turn(at));
            }
            out[block * inner + f] = sum;
        }
    }
}

}  // namespace tokexport
