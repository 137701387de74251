/* The detector of earshot.h. From top to bottom: mathematics, weights, front end, network, the step.
 *
 * It computes what `training.crnn.CRNN` and `Ensemble` compute, in the arrangement of `export.step`. Do not compile it
 * with -ffast-math: what is no number would go unnoticed.
 */
#include "earshot.h"

#include <string.h>

/* Frames that are transformed at once, each in a lane of the CPU's vectors. 1 needs 22 KB less memory and suits CPUs
 * without vectors. */
#ifndef EARSHOT_LANES
#define EARSHOT_LANES 8
#endif

#define LANES EARSHOT_LANES
#define N_FFT 400
#define HALF (N_FFT / 2)
#define FRAME_STEP 160
#define OVERLAP 3 /* steps that a frame touches */
#define N_MELS 40
#define FORMAT 1
#define HEADER 96 /* bytes */
#define ALIGNED 16 /* bytes: where tensors begin */
#define GROUP 4 /* outputs of a float matrix, inputs of an int8 one: padded to a multiple of it */
#define MOST_WORK (1u << 25) /* multiplications a hop */
#define LOUDEST 1e30f /* energy of a hop (sum of squares) beyond which it is no audio; full scale at 80 ms has 1280 */

/* ---- Mathematics ------------------------------------------------------------------------------------------------
 * Without branches, so that loops over them become vector instructions. Whatever they are given, they convert only
 * numbers in range to integers. tests/runtime/c measures their errors over all floats. */

static inline float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* e^x, relative error below 3e-7; x is limited to -87...88, and what is no number counts as -87. */
static inline float exponential(float x) {
  x = x > -87.0f ? x : -87.0f;
  x = x < 88.0f ? x : 88.0f;
  const float turns = x * 1.44269504f;
  const int32_t n = (int32_t)(turns + (turns < 0 ? -0.5f : 0.5f));
  const float r = (x - (float)n * 0.693359375f) - (float)n * -2.12194440e-4f; /* ln 2 in two parts */
  float p = 0.00139506024f; /* (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, relative error of e^r 3e-9 */
  p = p * r + 0.00836895359f;
  p = p * r + 0.0416662041f;
  p = p * r + 0.166665183f;
  p = p * r + 0.50000001f;
  return (p * r * r + r + 1.0f) * from_bits((uint32_t)(n + 127) << 23);
}

/* Natural logarithm of x >= 1; whatever is not counts as 1, whose logarithm is exactly 0. */
static inline float logarithm(float x) {
  x = x > 1.0f ? x : 1.0f;
  const uint32_t bits = to_bits(x);
  const uint32_t above = bits - 0x3f3504f3u; /* sqrt(1/2): mantissas from there to sqrt(2) */
  const float exponent = (float)(int32_t)(above >> 23);
  const float f = from_bits((above & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  float p = -0.100346184f; /* (log(1 + f) - f) / f^2, error of the logarithm 4e-8 */
  p = p * f + 0.163356468f;
  p = p * f - 0.173259955f;
  p = p * f + 0.198882769f;
  p = p * f - 0.249614651f;
  p = p * f + 0.333352614f;
  p = p * f - 0.500005844f;
  return exponent * 0.693147181f + (p * f * f + f);
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float tangent(float x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); } /* tanh */

static inline float rectified(float x) { return x > 0 ? x : 0; }

/* sin(2 pi k / 400) for k = 0...499: cosines are the same, 100 further on. */
static void fill_sines(float *sine) {
  for (int k = 0; k <= 50; k++) { /* an eighth of a turn by Taylor's series; the rest mirrors it */
    const float x = (float)k * 0.0157079633f, y = x * x;
    const float s = x * (1 + y * (-1 / 6.0f + y * (1 / 120.0f + y * (-1 / 5040.0f + y * (1 / 362880.0f)))));
    const float c = 1 + y * (-0.5f + y * (1 / 24.0f + y * (-1 / 720.0f + y * (1 / 40320.0f))));
    sine[k] = sine[200 - k] = s;
    sine[100 - k] = sine[100 + k] = c;
  }
  for (int k = 0; k < 200; k++) sine[200 + k] = -sine[k];
  for (int k = 0; k < 100; k++) sine[400 + k] = sine[k];
}

/* ---- Weights: the format of model.bin, docs/engine-c.md ---------------------------------------------------------- */

enum { FLOAT32 = 0, INT8 = 1 };

typedef struct {
  uint32_t version, bytes, checksum;
  uint32_t keywords, refractory_hops;
  uint32_t channels, kernel_mels, kernel_frames, stride_mels, stride_frames; /* of the convolution */
  uint32_t mix, steps; /* columns of each channel from so many steps of the convolution; mix 0: no second one */
  uint32_t hidden, layers, window, averaged, members;
  uint32_t type;  /* of all matrices but the convolutions', which are float: int8 there costs more than it saves */
  uint32_t names; /* bytes of the keywords' names, each with a zero at its end */
  uint32_t reserved[3];
} Sizes;

struct earshot {
  Sizes size;
  const unsigned char *thresholds, *names, *tensors; /* in the weights */
  int hop_frames, context, bands, columns;
  float *sine;    /* 500 */
  float *samples; /* (160, row): sample 160 q + r of the hop and of the 240 before it lies at (r, q) */
  float *frames;  /* (context + hop_frames, 40): log-mel above the floor */
  float *hidden;  /* (members, layers, hidden) */
  float *ring;    /* (hops, members, 1 + keywords): attention weight, weight x log-odds */
  float *work;    /* nothing in it is remembered */
};

static uint32_t rounded_up(uint32_t n, uint32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* Bytes of a matrix and its bias. */
static uint32_t matrix_bytes(uint32_t type, uint32_t inputs, uint32_t outputs) {
  if (type == INT8)
    return rounded_up(outputs * rounded_up(inputs, GROUP), ALIGNED) + 2 * rounded_up(4 * outputs, ALIGNED);
  return (inputs + 1) * rounded_up(outputs, GROUP) * 4;
}

/* Nothing here divides integers: small CPUs would need a library for it. */
static uint32_t bands_of(const Sizes *s) {
  uint32_t bands = 1;
  for (uint32_t end = s->kernel_mels + s->stride_mels; end <= N_MELS; end += s->stride_mels) bands++;
  return bands;
}

static uint32_t columns_of(const Sizes *s) { return s->channels * (s->mix ? s->mix : bands_of(s)); }
static uint32_t hop_frames_of(const Sizes *s) { return s->stride_frames * s->steps; }
static uint32_t ring_of(const Sizes *s) { return s->window + s->averaged - 1; } /* with the present hop */
static uint32_t context_of(const Sizes *s) {
  return s->kernel_frames > s->stride_frames ? s->kernel_frames - s->stride_frames : 0;
}

typedef struct {
  uint64_t bytes, work;
} Total;

static void add_matrix(Total *total, uint32_t type, uint32_t inputs, uint32_t outputs, uint32_t times) {
  total->bytes += matrix_bytes(type, inputs, outputs);
  total->work += (uint64_t)inputs * outputs * times;
}

/* Bytes from the header on, and multiplications a hop. Sizes have to be in range. */
static Total total_of(const Sizes *s) {
  Total total = {0, 0};
  const uint32_t positions = bands_of(s) * s->steps;
  add_matrix(&total, FLOAT32, s->kernel_mels * s->kernel_frames, s->channels, positions);
  for (uint32_t c = 0; s->mix && c < s->channels; c++) add_matrix(&total, FLOAT32, positions, s->mix, 1);
  for (uint32_t l = 0; l < s->layers; l++) {
    add_matrix(&total, s->type, l ? s->hidden : columns_of(s), 3 * s->hidden, 1);
    add_matrix(&total, s->type, s->hidden, 3 * s->hidden, 1);
  }
  add_matrix(&total, s->type, s->hidden, s->hidden, 1);
  add_matrix(&total, s->type, s->hidden, 1, 1);
  add_matrix(&total, s->type, s->hidden, s->keywords, 1);
  total.work += (uint64_t)s->window * s->averaged * (1 + s->keywords);
  total.work *= s->members;
  total.bytes *= s->members;
  total.bytes += HEADER + rounded_up(4 * s->keywords, ALIGNED) + rounded_up(s->names, ALIGNED);
  return total;
}

static int in_range(const Sizes *s) {
  const struct { uint32_t value, least, most; } limits[] = {
      {s->keywords, 1, 32}, {s->refractory_hops, 1, 1000000}, {s->channels, 1, 256},
      {s->kernel_mels, 1, N_MELS}, {s->kernel_frames, 1, 256}, {s->stride_mels, 1, N_MELS}, {s->stride_frames, 1, 100},
      {s->mix, 0, 64}, {s->steps, 1, s->mix ? 100 : 1}, {s->hidden, 1, 1023}, {s->layers, 1, 8},
      {s->window, 1, 16384}, {s->averaged, 1, 16384}, {s->members, 1, 32}, {s->type, FLOAT32, INT8},
      {s->names, 2, 32 * 401}, {s->reserved[0], 0, 0}, {s->reserved[1], 0, 0}, {s->reserved[2], 0, 0},
  };
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
    if (limits[i].value < limits[i].least || limits[i].value > limits[i].most) return 0;
  if (hop_frames_of(s) > 100) return 0;
  return s->type == FLOAT32 || columns_of(s) <= 1023; /* 1023 x 16383 x 128 < 2^31: int8 sums do not overflow */
}

/* CRC-32 as in zip, PNG and Ethernet, four bits at a time. */
static uint32_t checksum_of(const unsigned char *bytes, size_t size) {
  static const uint32_t table[16] = {
      0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
      0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < size; i++) {
    crc ^= bytes[i];
    crc = crc >> 4 ^ table[crc & 15];
    crc = crc >> 4 ^ table[crc & 15];
  }
  return ~crc;
}

static int all_finite(const unsigned char *floats, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, floats + 4 * i, 4);
    if ((bits & 0x7f800000u) == 0x7f800000u) return 0;
  }
  return 1;
}

/* Floats of a matrix that are no numbers make it unusable. Returns where the next one lies, NULL if there are any. */
static const unsigned char *checked(const unsigned char *at, uint32_t type, uint32_t inputs, uint32_t outputs) {
  if (!at) return NULL;
  const uint32_t bytes = matrix_bytes(type, inputs, outputs);
  const uint32_t skip = type == INT8 ? rounded_up(outputs * rounded_up(inputs, GROUP), ALIGNED) : 0;
  return all_finite(at + skip, (bytes - skip) / 4) ? at + bytes : NULL;
}

static int tensors_finite(const Sizes *s, const unsigned char *at) {
  for (uint32_t m = 0; m < s->members; m++) {
    at = checked(at, FLOAT32, s->kernel_mels * s->kernel_frames, s->channels);
    for (uint32_t c = 0; s->mix && c < s->channels; c++) at = checked(at, FLOAT32, bands_of(s) * s->steps, s->mix);
    for (uint32_t l = 0; l < s->layers; l++) {
      at = checked(at, s->type, l ? s->hidden : columns_of(s), 3 * s->hidden);
      at = checked(at, s->type, s->hidden, 3 * s->hidden);
    }
    at = checked(at, s->type, s->hidden, s->hidden);
    at = checked(at, s->type, s->hidden, 1);
    at = checked(at, s->type, s->hidden, s->keywords);
  }
  return at != NULL;
}

static int names_complete(const Sizes *s, const unsigned char *names) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < s->names; i++) {
    if (names[i] == 0 && (i == 0 || names[i - 1] == 0)) return 0; /* a name has at least one character */
    found += names[i] == 0;
  }
  return found == s->keywords && names[s->names - 1] == 0;
}

/* All that can be wrong with weights. Fills `s` when nothing is. */
static int check(const unsigned char *weights, size_t size, Sizes *s) {
  if (!weights || size < HEADER || memcmp(weights, "EARSHOT", 8) != 0) return EARSHOT_NOT_WEIGHTS;
  memcpy(s, weights + 8, sizeof *s);
  if (s->version != FORMAT) return EARSHOT_VERSION;
  if (s->bytes != size || !in_range(s)) return EARSHOT_DAMAGED;
  const Total total = total_of(s);
  if (total.bytes != size || total.work > MOST_WORK) return EARSHOT_DAMAGED;
  if (s->checksum != checksum_of(weights + 20, size - 20)) return EARSHOT_DAMAGED;
  if ((uintptr_t)weights % 8) return EARSHOT_ALIGNMENT;
  const unsigned char *names = weights + HEADER + rounded_up(4 * s->keywords, ALIGNED);
  if (!all_finite(weights + HEADER, s->keywords) || !names_complete(s, names)) return EARSHOT_DAMAGED;
  return tensors_finite(s, names + rounded_up(s->names, ALIGNED)) ? EARSHOT_OK : EARSHOT_DAMAGED;
}

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

static uint32_t largest(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Frames side by side: whole lanes of them, and what the last frame touches. */
static uint32_t row_of(const Sizes *s) { return rounded_up(hop_frames_of(s), LANES) + OVERLAP - 1; }

/* Floats that the network needs beside its state: see `listen`. */
static uint32_t inputs_of(const Sizes *s) {
  uint32_t inputs = largest(s->kernel_mels * s->kernel_frames, largest(columns_of(s), s->hidden));
  if (s->mix) inputs = largest(inputs, bands_of(s) * s->steps);
  return rounded_up(inputs, GROUP);
}

static uint32_t network_of(const Sizes *s) {
  const uint32_t positions = bands_of(s) * s->steps;
  return inputs_of(s) + inputs_of(s) / 2 + rounded_up(s->channels, GROUP) + s->channels * positions
    + columns_of(s) + GROUP + 2 * rounded_up(3 * s->hidden, GROUP);
}

/* Places everything behind the struct; `base` may be NULL to learn the size alone. */
static size_t lay_out(earshot *e, char *base) {
  const Sizes *s = &e->size;
  const struct { float **place; uint32_t floats; } parts[] = {
      {&e->samples, FRAME_STEP * row_of(s)},
      {&e->frames, (context_of(s) + hop_frames_of(s)) * N_MELS},
      {&e->hidden, s->members * s->layers * s->hidden},
      {&e->ring, ring_of(s) * s->members * (1 + s->keywords)},
      {&e->sine, N_FFT + N_FFT / 4},
      {&e->work, largest(2 * N_FFT * LANES, network_of(s))},
  };
  size_t size = rounded_up(sizeof *e, ALIGNED);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    *parts[i].place = base ? (float *)(void *)(base + size) : NULL;
    size += rounded_up(4 * parts[i].floats, ALIGNED);
  }
  return size;
}

/* ---- Front end: samples to log-mel frames ------------------------------------------------------------------------
 * A real transform of 400 samples by a complex one of 200 (even samples real, odd ones imaginary), in steps of radix 5,
 * 5 and 8 after Stockham (Cochran et al. 1967), which leave the bins in order. Every value is LANES of them: the same
 * sample or bin of so many frames. */

typedef struct {
  float re, im;
} Complex;

static inline Complex plus(Complex a, Complex b) { return (Complex){a.re + b.re, a.im + b.im}; }
static inline Complex minus(Complex a, Complex b) { return (Complex){a.re - b.re, a.im - b.im}; }
static inline Complex times(Complex a, Complex b) {
  return (Complex){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
static inline Complex scaled(Complex a, float by) { return (Complex){a.re * by, a.im * by}; }
static inline Complex back(Complex a) { return (Complex){a.im, -a.re}; } /* -i a: a quarter of a turn */

/* e^(-2 pi i k / 400), k = 0...399 */
static inline Complex turn(const float *sine, int k) { return (Complex){sine[k + 100], -sine[k]}; }

static inline Complex load(const float *at) { return (Complex){at[0], at[LANES]}; }
static inline void store(float *at, Complex a) {
  at[0] = a.re;
  at[LANES] = a.im;
}

/* Discrete Fourier transform of 5 in place. */
static inline void five(Complex *z) {
  const float c1 = 0.309016994f, s1 = 0.951056516f, c2 = -0.809016994f, s2 = 0.587785252f;
  const Complex outer = plus(z[1], z[4]), inner = plus(z[2], z[3]), o = minus(z[1], z[4]), i = minus(z[2], z[3]);
  const Complex m1 = plus(z[0], plus(scaled(outer, c1), scaled(inner, c2)));
  const Complex m2 = plus(z[0], plus(scaled(outer, c2), scaled(inner, c1)));
  const Complex n1 = back(plus(scaled(o, s1), scaled(i, s2))), n2 = back(minus(scaled(o, s2), scaled(i, s1)));
  z[0] = plus(z[0], plus(outer, inner));
  z[1] = plus(m1, n1);
  z[2] = plus(m2, n2);
  z[3] = minus(m2, n2);
  z[4] = minus(m1, n1);
}

/* Of 4, from and to every second place. */
static inline void four(Complex *z) {
  const Complex a = plus(z[0], z[4]), b = minus(z[0], z[4]), c = plus(z[2], z[6]), d = back(minus(z[2], z[6]));
  z[0] = plus(a, c);
  z[2] = plus(b, d);
  z[4] = minus(a, c);
  z[6] = minus(b, d);
}

/* The first step: windowed samples, radix 5. `samples`: of the first lane's frame. */
static void first_step(const float *restrict samples, int row, const float *restrict sine, float *restrict out) {
  for (int p = 0; p < HALF / 5; p++) {
    const float *even[5], *odd[5];
    float even_window[5], odd_window[5];
    Complex turns[5];
    for (int j = 0; j < 5; j++) {
      const int n = 2 * (p + HALF / 5 * j); /* Hann's window, periodic */
      even[j] = samples + n % FRAME_STEP * row + n / FRAME_STEP;
      odd[j] = samples + (n + 1) % FRAME_STEP * row + (n + 1) / FRAME_STEP;
      even_window[j] = 0.5f - 0.5f * turn(sine, n).re;
      odd_window[j] = 0.5f - 0.5f * turn(sine, n + 1).re;
      turns[j] = turn(sine, 2 * p * j);
    }
    float *y = out + 5 * p * 2 * LANES;
    for (int lane = 0; lane < LANES; lane++) {
      Complex z[5] = {
          {even[0][lane] * even_window[0], odd[0][lane] * odd_window[0]},
          {even[1][lane] * even_window[1], odd[1][lane] * odd_window[1]},
          {even[2][lane] * even_window[2], odd[2][lane] * odd_window[2]},
          {even[3][lane] * even_window[3], odd[3][lane] * odd_window[3]},
          {even[4][lane] * even_window[4], odd[4][lane] * odd_window[4]},
      };
      five(z);
      store(y + lane, z[0]);
      store(y + lane + 2 * LANES, times(z[1], turns[1]));
      store(y + lane + 4 * LANES, times(z[2], turns[2]));
      store(y + lane + 6 * LANES, times(z[3], turns[3]));
      store(y + lane + 8 * LANES, times(z[4], turns[4]));
    }
  }
}

/* The second step: radix 5, five transforms of 40 side by side. */
static void second_step(const float *restrict in, const float *restrict sine, float *restrict out) {
  for (int p = 0; p < 8; p++) {
    const Complex t1 = turn(sine, 10 * p), t2 = turn(sine, 20 * p), t3 = turn(sine, 30 * p), t4 = turn(sine, 40 * p);
    for (int q = 0; q < 5; q++) {
      const float *x = in + (q + 5 * p) * 2 * LANES;
      float *y = out + (q + 25 * p) * 2 * LANES;
      for (int lane = 0; lane < LANES; lane++) {
        Complex z[5] = {load(x + lane), load(x + lane + 80 * LANES), load(x + lane + 160 * LANES),
                        load(x + lane + 240 * LANES), load(x + lane + 320 * LANES)};
        five(z);
        store(y + lane, z[0]);
        store(y + lane + 10 * LANES, times(z[1], t1));
        store(y + lane + 20 * LANES, times(z[2], t2));
        store(y + lane + 30 * LANES, times(z[3], t3));
        store(y + lane + 40 * LANES, times(z[4], t4));
      }
    }
  }
}

/* The last step: radix 8, twenty-five transforms of 8 side by side. */
static void third_step(const float *restrict in, float *restrict out) {
  const float r = 0.707106781f;
  for (int q = 0; q < 25; q++) {
    const float *x = in + q * 2 * LANES;
    float *y = out + q * 2 * LANES;
    for (int lane = 0; lane < LANES; lane++) {
      Complex z[8] = {load(x + lane), load(x + lane + 50 * LANES), load(x + lane + 100 * LANES),
                      load(x + lane + 150 * LANES), load(x + lane + 200 * LANES), load(x + lane + 250 * LANES),
                      load(x + lane + 300 * LANES), load(x + lane + 350 * LANES)};
      four(z);
      four(z + 1);
      z[3] = scaled(plus(z[3], back(z[3])), r);
      z[5] = back(z[5]);
      z[7] = scaled(minus(back(z[7]), z[7]), r);
      store(y + lane, plus(z[0], z[1]));
      store(y + lane + 50 * LANES, plus(z[2], z[3]));
      store(y + lane + 100 * LANES, plus(z[4], z[5]));
      store(y + lane + 150 * LANES, plus(z[6], z[7]));
      store(y + lane + 200 * LANES, minus(z[0], z[1]));
      store(y + lane + 250 * LANES, minus(z[2], z[3]));
      store(y + lane + 300 * LANES, minus(z[4], z[5]));
      store(y + lane + 350 * LANES, minus(z[6], z[7]));
    }
  }
}

/* Four times the power of the real transform's bins 1...199, from the complex one's. */
static void power(const float *restrict spectrum, const float *restrict sine, float *restrict out) {
  for (int k = 1; k < HALF / 2; k++) {
    const Complex t = back(turn(sine, k));
    const float *x = spectrum + k * 2 * LANES, *y = spectrum + (HALF - k) * 2 * LANES;
    float *restrict low = out + k * LANES, *restrict high = out + (HALF - k) * LANES;
    for (int lane = 0; lane < LANES; lane++) {
      const Complex a = load(x + lane), b = {y[lane], -y[lane + LANES]};
      const Complex even = plus(a, b), odd = times(t, minus(a, b));
      const Complex sum = plus(even, odd), difference = minus(even, odd);
      low[lane] = sum.re * sum.re + sum.im * sum.im;
      high[lane] = difference.re * difference.re + difference.im * difference.im;
    }
  }
  const float *middle = spectrum + HALF / 2 * 2 * LANES;
  for (int lane = 0; lane < LANES; lane++) {
    const Complex a = scaled(load(middle + lane), 2);
    out[HALF / 2 * LANES + lane] = a.re * a.re + a.im * a.im;
  }
}

/* Triangular HTK mel filters without normalisation: filter m rises from corner m to m + 1 and falls to m + 2. In hertz,
 * 700 (10^(m top / 41 / 2595) - 1), where top is the mel of 8000 Hz, 2595 log10(1 + 8000 / 700). */
static const float corners[N_MELS + 2] = {
    0.0f, 44.3740768f, 91.5610962f, 141.739365f, 195.098526f, 251.840195f, 312.178802f, 376.342377f, 444.573395f,
    517.129639f, 594.2854f, 676.332092f, 763.579895f, 856.358521f, 955.018494f, 1059.93262f, 1171.49744f, 1290.13452f,
    1416.29224f, 1550.44727f, 1693.10657f, 1844.80933f, 2006.12866f, 2177.67432f, 2360.09448f, 2554.07861f, 2760.35962f,
    2979.71729f, 3212.98022f, 3461.03003f, 3724.8042f, 4005.29932f, 4303.57520f, 4620.75977f, 4958.05078f, 5316.72363f,
    5698.13281f, 6103.72021f, 6535.01855f, 6993.65771f, 7481.37012f, 8000.0f};

/* Mel energies in units of the floor 1e-9, (40, LANES), from four times the power of bins 1...199. */
static void mel(const float *restrict bins, float *restrict out) {
  int bin = 1;
  for (int m = 0; m <= N_MELS; m++) {
    float rising[LANES] = {0}, falling[LANES] = {0};
    const float scale = 0.25e9f / (corners[m + 1] - corners[m]);
    for (; (float)(40 * bin) < corners[m + 1] && bin < HALF; bin++) {
      const float up = ((float)(40 * bin) - corners[m]) * scale, down = (corners[m + 1] - (float)(40 * bin)) * scale;
      for (int lane = 0; lane < LANES; lane++) {
        rising[lane] += bins[bin * LANES + lane] * up;
        falling[lane] += bins[bin * LANES + lane] * down;
      }
    }
    for (int lane = 0; m < N_MELS && lane < LANES; lane++) out[m * LANES + lane] = rising[lane];
    for (int lane = 0; m > 0 && lane < LANES; lane++) out[(m - 1) * LANES + lane] += falling[lane];
  }
}

/* Moves on by one hop; what is kept of the one before are its last 240 samples. Returns the hop's energy. */
static float take(earshot *e, const float *floats, const int16_t *integers) {
  const int row = (int)row_of(&e->size), hop = e->hop_frames;
  float energy[GROUP] = {0};
  for (int r = 0; r < FRAME_STEP; r++) {
    float *to = e->samples + r * row;
    const int kept = r < FRAME_STEP / 2 ? 2 : 1, from = FRAME_STEP * kept + r - (N_FFT - FRAME_STEP);
    for (int q = 0; q < kept; q++) to[q] = to[q + hop];
    if (floats)
      for (int q = 0; q < hop; q++) to[q + kept] = floats[FRAME_STEP * q + from];
    else
      for (int q = 0; q < hop; q++) to[q + kept] = (float)integers[FRAME_STEP * q + from] * (1 / 32768.0f);
    for (int q = 0; q < hop; q++) energy[r % GROUP] += to[q + kept] * to[q + kept];
  }
  return energy[0] + energy[1] + energy[2] + energy[3];
}

/* Log-mel frames of the hop that was taken. */
static void hear(earshot *e) {
  float *a = e->work, *b = a + N_FFT * LANES;
  const int row = (int)row_of(&e->size);
  memmove(e->frames, e->frames + e->hop_frames * N_MELS, (size_t)(e->context * N_MELS) * sizeof *e->frames);
  for (int first = 0; first < e->hop_frames; first += LANES) {
    first_step(e->samples + first, row, e->sine, a);
    second_step(a, e->sine, b);
    third_step(b, a);
    power(a, e->sine, b);
    mel(b, a);
    for (int i = 0; i < N_MELS * LANES; i++) a[i] = logarithm(a[i]);
    float *out = e->frames + (e->context + first) * N_MELS;
    for (int lane = 0; lane < LANES && first + lane < e->hop_frames; lane++)
      for (int m = 0; m < N_MELS; m++) out[lane * N_MELS + m] = a[m * LANES + lane];
  }
}

/* ---- Network ----------------------------------------------------------------------------------------------------- */

/* y = x W + bias for `width` outputs of a float matrix, inputs x outputs: sums that stay in registers. */
#define TILE(width)                                                            \
  for (; o + (width) <= outputs; o += (width)) {                               \
    float sum[width];                                                          \
    for (int k = 0; k < (width); k++) sum[k] = bias[o + k];                    \
    for (int i = 0; i < inputs; i++)                                           \
      for (int k = 0; k < (width); k++) sum[k] += x[i] * weight[i * outputs + o + k]; \
    for (int k = 0; k < (width); k++) y[o + k] = sum[k];                       \
  }

static void multiply_float(const float *restrict weight, int inputs, int outputs, const float *restrict x,
                           float *restrict y) {
  const float *restrict bias = weight + inputs * outputs;
  int o = 0;
  TILE(32)
  TILE(16)
  TILE(8)
  TILE(GROUP)
}

/* The same by integers. x is rounded to 15 bits: one scale for all of it, as large as its largest value allows. */
static void multiply_int8(const int8_t *restrict weight, int inputs, int outputs, const float *restrict x,
                          int16_t *restrict rounded, float *restrict y) {
  const int padded = (int)rounded_up((uint32_t)inputs, GROUP);
  const float *scale = (const float *)(const void *)(weight + rounded_up((uint32_t)(outputs * padded), ALIGNED));
  const float *bias = scale + rounded_up((uint32_t)outputs, GROUP);
  float most = 1e-30f;
  for (int i = 0; i < inputs; i++) {
    const float size = x[i] < 0 ? -x[i] : x[i];
    most = size > most ? size : most;
  }
  most = most < 1e30f ? most : 1e30f;
  const float up = 16383 / most, down = most / 16383;
  for (int i = 0; i < inputs; i++) {
    float value = x[i] * up;
    value = value > -16383.0f ? value : -16383.0f;
    value = value < 16383.0f ? value : 16383.0f;
    rounded[i] = (int16_t)(int32_t)(value + (value < 0 ? -0.5f : 0.5f));
  }
  for (int i = inputs; i < padded; i++) rounded[i] = 0;
  for (int o = 0; o < outputs; o++) {
    int32_t sum = 0;
    for (int i = 0; i < padded; i++) sum += (int32_t)rounded[i] * weight[o * padded + i];
    y[o] = (float)sum * down * scale[o] + bias[o];
  }
}

/* The matrix at `at` times x gives y, whose size is rounded up to a multiple of GROUP. Returns where the next lies. */
static const unsigned char *multiply(const unsigned char *at, uint32_t type, uint32_t inputs, uint32_t outputs,
                                     const float *x, int16_t *rounded, float *y) {
  if (type == INT8)
    multiply_int8((const int8_t *)at, (int)inputs, (int)outputs, x, rounded, y);
  else
    multiply_float((const float *)(const void *)at, (int)inputs, (int)rounded_up(outputs, GROUP), x, y);
  return at + matrix_bytes(type, inputs, outputs);
}

typedef struct {
  float *patch, *said, *heard, *columns, *a, *b;
  int16_t *rounded;
} Work;

static Work work_of(const earshot *e) {
  const Sizes *s = &e->size;
  Work w;
  w.patch = e->work;
  w.rounded = (int16_t *)(void *)(w.patch + inputs_of(s));
  w.said = w.patch + inputs_of(s) + inputs_of(s) / 2;
  w.heard = w.said + rounded_up(s->channels, GROUP);
  w.columns = w.heard + s->channels * bands_of(s) * s->steps;
  w.a = w.columns + columns_of(s) + GROUP;
  w.b = w.a + rounded_up(3 * s->hidden, GROUP);
  return w;
}

/* The frames and mel bands under the kernel, in one row. */
static const float *patch_of(const earshot *e, int position, int band, const Work *w) {
  const Sizes *s = &e->size;
  const int width = (int)s->kernel_mels, stride = (int)s->stride_frames, height = (int)s->kernel_frames;
  const int skipped = stride > height ? stride - height : 0; /* a kernel shorter than its stride reads the end of it */
  const float *from = e->frames + (position * stride + skipped) * N_MELS + band * (int)s->stride_mels;
  for (int t = 0; t < height; t++) memcpy(w->patch + t * width, from + t * N_MELS, (size_t)width * sizeof *from);
  return w->patch;
}

/* The convolutions: frames to columns. */
static const unsigned char *convolve(earshot *e, const unsigned char *at, const Work *w) {
  const Sizes *s = &e->size;
  const uint32_t inputs = s->kernel_mels * s->kernel_frames;
  const int channels = (int)s->channels, positions = e->bands * (int)s->steps;
  const unsigned char *after = at;
  float *to = s->mix ? w->heard : w->columns;
  for (int i = 0; i < (int)s->steps; i++) {
    for (int band = 0; band < e->bands; band++, to++) {
      after = multiply(at, FLOAT32, inputs, s->channels, patch_of(e, i, band, w), NULL, w->said);
      for (int c = 0; c < channels; c++) to[c * positions] = s->mix ? rectified(w->said[c]) : w->said[c];
    }
  }
  if (!s->mix) return after;
  for (int c = 0; c < channels; c++) {
    float *columns = w->columns + c * (int)s->mix;
    after = multiply(after, FLOAT32, (uint32_t)positions, s->mix, w->heard + c * positions, NULL, columns);
  }
  for (int i = 0; i < e->columns; i++) w->columns[i] = rectified(w->columns[i]);
  return after;
}

/* One layer of a GRU (Cho et al. 2014, in the arrangement of torch.nn.GRU): `hidden` moves on. */
static const unsigned char *recur(const Sizes *s, const unsigned char *at, uint32_t inputs, const float *x,
                                  float *restrict hidden, const Work *w) {
  const int units = (int)s->hidden;
  float *restrict a = w->a, *restrict b = w->b;
  at = multiply(at, s->type, inputs, 3 * s->hidden, x, w->rounded, a);
  at = multiply(at, s->type, s->hidden, 3 * s->hidden, hidden, w->rounded, b);
  for (int i = 0; i < 2 * units; i++) a[i] = sigmoid(a[i] + b[i]);
  for (int i = 0; i < units; i++) {
    const float candidate = tangent(a[2 * units + i] + a[i] * b[2 * units + i]);
    hidden[i] = candidate + a[units + i] * (hidden[i] - candidate);
  }
  return at;
}

/* What one member says of the hop: the attention's weight, and weight x log-odds of each keyword. */
static const unsigned char *vote(const Sizes *s, const unsigned char *at, const float *hidden, float *said,
                                 const Work *w) {
  at = multiply(at, s->type, s->hidden, s->hidden, hidden, w->rounded, w->a);
  for (int i = 0; i < (int)s->hidden; i++) w->a[i] = tangent(w->a[i]);
  at = multiply(at, s->type, s->hidden, 1, w->a, w->rounded, w->b);
  const float weight = exponential(w->b[0]);
  at = multiply(at, s->type, s->hidden, s->keywords, hidden, w->rounded, w->a);
  said[0] = weight;
  for (int k = 0; k < (int)s->keywords; k++) said[1 + k] = weight * w->a[k];
  return at;
}

/* Log-odds of a keyword: over the hops whose log-odds are averaged and over members, the mean of the attention's. */
static float log_odds(const earshot *e, int keyword) {
  const Sizes *s = &e->size;
  const int said = 1 + (int)s->keywords, row = (int)s->members * said;
  float odds = 0, count = 0;
  for (int last = 0; last < (int)s->averaged; last++) {
    for (int m = 0; m < (int)s->members; m++) {
      const float *at = e->ring + last * row + m * said;
      float total = 0, sum = 0;
      for (int hop = 0; hop < (int)s->window; hop++) {
        total += at[hop * row];
        sum += at[hop * row + 1 + keyword];
      }
      if (total > 0) { /* zero before the stream began */
        odds += sum / total;
        count += 1;
      }
    }
  }
  return count > 0 ? odds / count : odds;
}

/* ---- The step ---------------------------------------------------------------------------------------------------- */

static int step(earshot *e, const float *floats, const int16_t *integers, float *scores) {
  const Sizes *s = &e->size;
  int good = take(e, floats, integers) < LOUDEST;
  if (good) {
    hear(e);
    const Work w = work_of(e);
    const uint32_t row = s->members * (1 + s->keywords), before = (ring_of(s) - 1) * row;
    memmove(e->ring, e->ring + row, before * sizeof *e->ring);
    const unsigned char *at = e->tensors;
    for (uint32_t m = 0; m < s->members; m++) {
      float *hidden = e->hidden + m * s->layers * s->hidden;
      at = convolve(e, at, &w);
      for (uint32_t l = 0; l < s->layers; l++, hidden += s->hidden)
        at = l ? recur(s, at, s->hidden, hidden - s->hidden, hidden, &w)
               : recur(s, at, (uint32_t)e->columns, w.columns, hidden, &w);
      at = vote(s, at, hidden - s->hidden, e->ring + before + m * (1 + s->keywords), &w);
    }
  }
  for (int k = 0; k < (int)s->keywords && good; k++) {
    const float odds = log_odds(e, k);
    good = odds - odds == 0; /* neither NaN nor infinite */
    scores[k] = sigmoid(odds);
  }
  if (good) return EARSHOT_OK;
  memset(scores, 0, s->keywords * sizeof *scores);
  earshot_reset(e);
  return EARSHOT_NOT_FINITE;
}

int earshot_step(earshot *engine, const float *hop, float *scores) { return step(engine, hop, NULL, scores); }

int earshot_step_int16(earshot *engine, const int16_t *hop, float *scores) { return step(engine, NULL, hop, scores); }

size_t earshot_memory(const void *weights, size_t weights_size) {
  earshot e;
  return check(weights, weights_size, &e.size) == EARSHOT_OK ? lay_out(&e, NULL) : 0;
}

int earshot_init(void *memory, size_t memory_size, const void *weights, size_t weights_size) {
  earshot e;
  const int status = check(weights, weights_size, &e.size);
  if (status != EARSHOT_OK) return status;
  if (!memory || memory_size < lay_out(&e, NULL)) return EARSHOT_MEMORY;
  if ((uintptr_t)memory % 8) return EARSHOT_ALIGNMENT;
  lay_out(&e, memory);
  e.thresholds = (const unsigned char *)weights + HEADER;
  e.names = e.thresholds + rounded_up(4 * e.size.keywords, ALIGNED);
  e.tensors = e.names + rounded_up(e.size.names, ALIGNED);
  e.hop_frames = (int)hop_frames_of(&e.size);
  e.context = (int)context_of(&e.size);
  e.bands = (int)bands_of(&e.size);
  e.columns = (int)columns_of(&e.size);
  fill_sines(e.sine);
  memcpy(memory, &e, sizeof e);
  earshot_reset(memory);
  return EARSHOT_OK;
}

/* The states lie one behind the other: samples, frames, hidden, ring. */
void earshot_reset(earshot *e) { memset(e->samples, 0, (size_t)((char *)e->sine - (char *)e->samples)); }

int earshot_hop_samples(const earshot *e) { return e->hop_frames * FRAME_STEP; }

int earshot_keywords(const earshot *e) { return (int)e->size.keywords; }

int earshot_refractory_hops(const earshot *e) { return (int)e->size.refractory_hops; }

const char *earshot_keyword(const earshot *e, int index) {
  if (index < 0 || index >= (int)e->size.keywords) return NULL;
  const char *name = (const char *)e->names;
  for (; index > 0; index--) name += strlen(name) + 1;
  return name;
}

float earshot_threshold(const earshot *e, int index) {
  float threshold = 0;
  if (index >= 0 && index < (int)e->size.keywords) memcpy(&threshold, e->thresholds + 4 * index, sizeof threshold);
  return threshold;
}

const char *earshot_message(int status) {
  switch (status) {
    case EARSHOT_OK: return "no error";
    case EARSHOT_NOT_WEIGHTS: return "not a model.bin";
    case EARSHOT_VERSION: return "a version of model.bin that this library does not know";
    case EARSHOT_DAMAGED: return "a model.bin that is truncated, damaged or too large";
    case EARSHOT_MEMORY: return "too little memory: see earshot_memory";
    case EARSHOT_ALIGNMENT: return "memory or weights are not aligned to 8 bytes";
    case EARSHOT_NOT_FINITE: return "audio or scores that are no numbers: the stream was reset";
    default: return "unknown status";
  }
}
