/*
 * Sixteen SHA-256 at once (FIPS 180-4), word j of all of them in one register of AVX-512. One after the other each
 * round waits for the last one's result, with instructions for it too; side by side they keep the
 * processor busy, and take half of the time. OpenSSL has no call for that, so the rounds are here. Where the
 * processor cannot, and for what is left, OpenSSL hashes one by one.
 */
#include "src/base/hash.h"

#ifdef __x86_64__

#include <string.h>

#include <immintrin.h>

#define LANES 16
#define STEP 64 /* bytes that are compressed at once */
#define TARGET __attribute__((target("avx512f,avx512bw")))
#define INLINE static inline __attribute__((always_inline)) TARGET

#define ADD _mm512_add_epi32
#define ROTATE _mm512_ror_epi32
#define SHIFT _mm512_srli_epi32
#define XOR(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0x96)
#define CHOOSE(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0xca)
#define MAJORITY(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0xe8)

static const uint32_t constants[64] = {
	0x428a2f98,
	0x71374491,
	0xb5c0fbcf,
	0xe9b5dba5,
	0x3956c25b,
	0x59f111f1,
	0x923f82a4,
	0xab1c5ed5,
	0xd807aa98,
	0x12835b01,
	0x243185be,
	0x550c7dc3,
	0x72be5d74,
	0x80deb1fe,
	0x9bdc06a7,
	0xc19bf174,
	0xe49b69c1,
	0xefbe4786,
	0x0fc19dc6,
	0x240ca1cc,
	0x2de92c6f,
	0x4a7484aa,
	0x5cb0a9dc,
	0x76f988da,
	0x983e5152,
	0xa831c66d,
	0xb00327c8,
	0xbf597fc7,
	0xc6e00bf3,
	0xd5a79147,
	0x06ca6351,
	0x14292967,
	0x27b70a85,
	0x2e1b2138,
	0x4d2c6dfc,
	0x53380d13,
	0x650a7354,
	0x766a0abb,
	0x81c2c92e,
	0x92722c85,
	0xa2bfe8a1,
	0xa81a664b,
	0xc24b8b70,
	0xc76c51a3,
	0xd192e819,
	0xd6990624,
	0xf40e3585,
	0x106aa070,
	0x19a4c116,
	0x1e376c08,
	0x2748774c,
	0x34b0bcb5,
	0x391c0cb3,
	0x4ed8aa4a,
	0x5b9cca4f,
	0x682e6ff3,
	0x748f82ee,
	0x78a5636f,
	0x84c87814,
	0x8cc70208,
	0x90befffa,
	0xa4506ceb,
	0xbef9a3f7,
	0xc67178f2,
};

/* From register i having lane i's words to register i having all lanes' word i. */
INLINE void transpose(__m512i r[LANES])
{
	__m512i t[LANES];

#pragma GCC unroll 8
	for (int i = 0; i < LANES; i += 2) {
		t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
		t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
	}
#pragma GCC unroll 4
	for (int i = 0; i < LANES; i += 4) {
		r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
		r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
		r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
		r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
	}
	/* Now quarter q of r[4 * g + k] has words 4 * q + k of lanes 4 * g to 4 * g + 3. */
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++) {
		__m512i a = _mm512_shuffle_i32x4(r[k], r[4 + k], 0x88);
		__m512i b = _mm512_shuffle_i32x4(r[k], r[4 + k], 0xdd);
		__m512i c = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0x88);
		__m512i d = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0xdd);

		t[k] = _mm512_shuffle_i32x4(a, c, 0x88);
		t[8 + k] = _mm512_shuffle_i32x4(a, c, 0xdd);
		t[4 + k] = _mm512_shuffle_i32x4(b, d, 0x88);
		t[12 + k] = _mm512_shuffle_i32x4(b, d, 0xdd);
	}
#pragma GCC unroll 16
	for (int i = 0; i < LANES; i++)
		r[i] = t[i];
}

/* Round i of any sixteen: the eight words are not moved, their names are. */
INLINE void turn(__m512i s[8], int i, __m512i word)
{
	__m512i *a = &s[(64 - i) & 7], *b = &s[(65 - i) & 7], *c = &s[(66 - i) & 7];
	__m512i *d = &s[(67 - i) & 7], *e = &s[(68 - i) & 7], *f = &s[(69 - i) & 7];
	__m512i *g = &s[(70 - i) & 7], *h = &s[(71 - i) & 7];
	__m512i one = ADD(ADD(*h, word),
		ADD(XOR(ROTATE(*e, 6), ROTATE(*e, 11), ROTATE(*e, 25)), CHOOSE(*e, *f, *g)));
	__m512i two = ADD(XOR(ROTATE(*a, 2), ROTATE(*a, 13), ROTATE(*a, 22)), MAJORITY(*a, *b, *c));

	*d = ADD(*d, one);
	*h = ADD(one, two);
}

/* The word of a round from the sixteenth on, in place of the one sixteen before. */
INLINE __m512i next_word(__m512i w[16], int i)
{
	__m512i x = w[(i + 1) & 15], y = w[(i + 14) & 15];
	__m512i a = XOR(ROTATE(x, 7), ROTATE(x, 18), SHIFT(x, 3));
	__m512i b = XOR(ROTATE(y, 17), ROTATE(y, 19), SHIFT(y, 10));

	w[i] = ADD(ADD(w[i], w[(i + 9) & 15]), ADD(a, b));
	return w[i];
}

INLINE __m512i constant(int i)
{
	return _mm512_set1_epi32((int)constants[i]);
}

/* Lane i's bytes begin at p + i * stride. */
TARGET static void compress(__m512i to[8], const uint8_t *p, size_t stride, size_t steps)
{
	const __m512i swap =
		_mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));

	for (; steps > 0; steps--, p += STEP) {
		__m512i w[16], s[8];

#pragma GCC unroll 16
		for (int i = 0; i < LANES; i++)
			w[i] = _mm512_shuffle_epi8(
				_mm512_loadu_si512(p + (size_t)i * stride), swap);
		transpose(w);
#pragma GCC unroll 8
		for (int i = 0; i < 8; i++)
			s[i] = to[i];
#pragma GCC unroll 16
		for (int i = 0; i < 16; i++)
			turn(s, i, ADD(w[i], constant(i)));
		for (int round = 16; round < 64; round += 16) {
#pragma GCC unroll 16
			for (int i = 0; i < 16; i++)
				turn(s, i, ADD(next_word(w, i), constant(round + i)));
		}
#pragma GCC unroll 8
		for (int i = 0; i < 8; i++)
			to[i] = ADD(to[i], s[i]);
	}
}

TARGET static void sixteen(const uint8_t *p, size_t n, uint8_t (*out)[SHA256_SIZE])
{
	static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
		0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	const uint64_t bits = __builtin_bswap64((uint64_t)n * 8);
	uint8_t end[STEP] = {0x80}; /* n is a multiple of STEP, so all of it is padding */
	uint32_t words[8][LANES];
	__m512i s[8];

	memcpy(end + STEP - sizeof(bits), &bits, sizeof(bits));
	for (int i = 0; i < 8; i++)
		s[i] = _mm512_set1_epi32((int)start[i]);
	compress(s, p, n, n / STEP);
	compress(s, end, 0, 1);
	for (int i = 0; i < 8; i++)
		_mm512_storeu_si512(words[i], s[i]);
	for (int lane = 0; lane < LANES; lane++) {
		for (int i = 0; i < 8; i++) {
			uint32_t word = __builtin_bswap32(words[i][lane]);

			memcpy(out[lane] + 4 * i, &word, sizeof(word));
		}
	}
}

/* With what the system saves of the registers. */
static bool able(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

#endif

void sha256_many(const void *p, size_t n, size_t count, uint8_t (*out)[SHA256_SIZE])
{
	const uint8_t *from = p;
	size_t i = 0;

#ifdef __x86_64__
	if (n > 0 && n % STEP == 0 && able()) {
		for (; count - i >= LANES; i += LANES)
			sixteen(from + i * n, n, out + i);
	}
#endif
	for (; i < count; i++)
		sha256(from + i * n, n, out[i]);
}
