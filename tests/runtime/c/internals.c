/* What a test wants to see of the engine's inside: its source, and a few functions around it. */
#include "../../../runtime/c/earshot.c"

#include <math.h>

enum { EXPONENTIAL, LOGARITHM, SIGMOID, TANGENT };

static double limited(double x, double least, double most) {
  return x > least ? (x < most ? x : most) : least;
}

/* Largest error of a function over every `stride`th of all 2^32 floats, NaN and infinities too: relative for the
 * exponential, in units of 2^-24 of max(1, value) for the logarithm, absolute for the others. */
double largest_error(int function, uint32_t stride) {
  double largest_one = 0;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += stride) {
    const float x = from_bits((uint32_t)bits);
    double error, true_value;
    switch (function) {
      case EXPONENTIAL:
        true_value = exp(limited((double)x, -87, 88));
        error = ((double)exponential(x) - true_value) / true_value;
        break;
      case LOGARITHM:
        if (isinf(x)) continue; /* counts as 2^128 */
        true_value = log(limited((double)x, 1, INFINITY));
        error = ((double)logarithm(x) - true_value) / (true_value > 1 ? true_value : 1);
        break;
      case SIGMOID:
        true_value = isnan(x) ? 1 : 1 / (1 + exp(-(double)x)); /* -NaN counts as -87 */
        error = (double)sigmoid(x) - true_value;
        break;
      default:
        true_value = isnan(x) ? -1 : tanh((double)x);
        error = (double)tangent(x) - true_value;
    }
    if (!(fabs(error) <= largest_one)) largest_one = fabs(error); /* keeps a NaN */
  }
  return largest_one;
}

double largest_sine_error(void) {
  float sine[500];
  double largest_one = 0;
  fill_sines(sine);
  for (int k = 0; k < 500; k++) {
    const double error = fabs((double)sine[k] - sin(k * 3.14159265358979323846 / 200));
    if (error > largest_one) largest_one = error;
  }
  return largest_one;
}

/* The log-mel frames of the last hop, (hop frames, 40). */
const float *frames_of(const earshot *e) { return e->frames + e->context * N_MELS; }

int lanes(void) { return LANES; }
