// The discrete Fourier transform of any length.
#pragma once

#include <complex>
#include <vector>

namespace tokexport {

class Fourier {
  public:
    explicit Fourier(int length);

    // sum over t of values[t] exp(-2 pi i f t / length), for every f.
    std::vector<std::complex<double>> operator()(const std::vector<double>& values) const;

  private:
    using Complex = std::complex<double>;

    void transform(const double* values, int stride, std::size_t factor, int length, Complex* out,
                   Complex* column) const;

    std::vector<int> factors_;
    std::vector<Complex> turns_;  // exp(-2 pi i k / length)
};

}  // namespace tokexport
