// A separable filter in fixed point, as Pillow defines its results (src/libImaging/Resample.c): each pass rounds to
// whole numbers, and a pass that changes nothing is skipped.
#include "resample.h"

#include <algorithm>
#include <cmath>

namespace tokexport {
namespace {

using Resample = PreprocessRecord::Resample;

constexpr double kPi = 3.14159265358979323846;
// A weight times 255, summed over the filter, fits 32 bits with two bits for overshoot.
constexpr int kBits = 32 - 8 - 2;

double sinc(double x) { return x == 0 ? 1.0 : std::sin(x * kPi) / (x * kPi); }

// Support of a filter, in source pixels at scale one.
double support_of(Resample filter) {
    return filter == Resample::bilinear ? 1.0 : filter == Resample::bicubic ? 2.0 : 3.0;
}

double weight(Resample filter, double x) {
    const double far = std::fabs(x);
    if (filter == Resample::bilinear) return far < 1 ? 1 - far : 0;
    if (filter == Resample::lanczos) return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0;
    // Keys' cubic with a = -1/2.
    constexpr double a = -0.5;
    if (far < 1) return ((a + 2) * far - (a + 3)) * far * far + 1;
    return far < 2 ? (((far - 5) * far + 8) * far - 4) * a : 0;
}

// The source pixels that one target pixel reads, from `first` on, and their weights.
struct Taps {
    int first;
    std::vector<int> weights;
};

std::vector<Taps> taps_of(int source, int target, Resample filter) {
    const double scale = static_cast<double>(source) / target, wide = std::max(scale, 1.0);
    const double support = support_of(filter) * wide;
    std::vector<Taps> taps(static_cast<std::size_t>(target));
    std::vector<double> weights;
    for (int i = 0; i < target; ++i) {
        const double center = (i + 0.5) * scale;
        const int first = std::max(static_cast<int>(center - support + 0.5), 0);
        const int last = std::min(static_cast<int>(center + support + 0.5), source);
        weights.clear();
        double sum = 0;
        for (int x = 0; x < last - first; ++x) {
            weights.push_back(weight(filter, (x + first - center + 0.5) * (1.0 / wide)));
            sum += weights.back();
        }
        taps[i].first = first;
        for (const double value : weights) {
            const double whole = (sum == 0 ? value : value / sum) * (1 << kBits);
            taps[i].weights.push_back(static_cast<int>(whole + (whole < 0 ? -0.5 : 0.5)));
        }
    }
    return taps;
}

std::uint8_t rounded(std::int64_t sum) {
    return static_cast<std::uint8_t>(std::clamp<std::int64_t>((sum + (1 << (kBits - 1))) >> kBits, 0, 255));
}

// One pass along the axis on which neighbours are `step` bytes apart.
void filter_pixel(const std::uint8_t* first, std::size_t step, const std::vector<int>& weights, std::uint8_t* out) {
    std::int64_t red = 0, green = 0, blue = 0;
    for (std::size_t k = 0; k < weights.size(); ++k, first += step) {
        red += std::int64_t{weights[k]} * first[0];
        green += std::int64_t{weights[k]} * first[1];
        blue += std::int64_t{weights[k]} * first[2];
    }
    out[0] = rounded(red);
    out[1] = rounded(green);
    out[2] = rounded(blue);
}

Pixels columns(const Pixels& image, int width, Resample filter) {
    const auto taps = taps_of(image.width, width, filter);
    Pixels made(width, image.height);
    for (int y = 0; y < image.height; ++y)
        for (int x = 0; x < width; ++x) filter_pixel(image.at(taps[x].first, y), 3, taps[x].weights, made.at(x, y));
    return made;
}

Pixels rows(const Pixels& image, int height, Resample filter) {
    const auto taps = taps_of(image.height, height, filter);
    const std::size_t step = static_cast<std::size_t>(image.width) * 3;
    Pixels made(image.width, height);
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < image.width; ++x)
            filter_pixel(image.at(x, taps[y].first), step, taps[y].weights, made.at(x, y));
    return made;
}

// The source pixel under the centre of each target pixel. Pillow accumulates the step, rounding errors included.
std::vector<int> under(int source, int target) {
    const double step = static_cast<double>(source) / target;
    std::vector<int> found(static_cast<std::size_t>(target));
    double place = step * 0.5;
    for (int& index : found) {
        index = std::min(static_cast<int>(place), source - 1);
        place += step;
    }
    return found;
}

Pixels nearest(const Pixels& image, int width, int height) {
    const auto xs = under(image.width, width), ys = under(image.height, height);
    Pixels made(width, height);
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) std::copy_n(image.at(xs[x], ys[y]), 3, made.at(x, y));
    return made;
}

}  // namespace

Pixels resize(const Pixels& image, int width, int height, Resample filter) {
    if (filter == Resample::nearest) return nearest(image, width, height);
    if (width == image.width) return height == image.height ? image : rows(image, height, filter);
    if (height == image.height) return columns(image, width, filter);
    // Pillow 13 resizes rows first where they shrink by more than twice as many pixels as the columns, which is less
    // work; older Pillow always resizes columns first, and results differ by a rounding.
    const std::int64_t lost_rows = std::int64_t{image.height} - height,
                       lost_columns = std::int64_t{image.width} - width;
    if (lost_rows > 0 && lost_rows > 2 * lost_columns) return columns(rows(image, height, filter), width, filter);
    return rows(columns(image, width, filter), height, filter);
}

}  // namespace tokexport
