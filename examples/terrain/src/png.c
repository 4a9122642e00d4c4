/* A small PNG writer: the five row filters, LZ77 over a one-entry hash, Huffman codes made for each block (RFC 1950, 1951, 2083). */
#include "raster.h"

#include <stdlib.h>
#include <string.h>

#define LITERALS 286
#define DISTANCES 30
#define LENGTH_CODES 19
#define END_OF_BLOCK 256
#define CODE_BITS_MAX 15
#define LENGTH_CODE_BITS_MAX 7
#define WINDOW 32768u
#define MATCH_MIN 4u
#define MATCH_MAX 258u
#define HASH_BITS 15
/* Tokens of one block: enough that the table of codes at its head costs nothing. */
#define BLOCK_TOKENS 131072u

struct buffer {
    uint8_t *bytes;
    size_t len, room;
    uint64_t bits; /* not yet written, the first one lowest */
    unsigned n_bits;
};

static void put(struct buffer *out, uint8_t byte) {
    if (out->len == out->room) {
        size_t room = out->room ? out->room * 2 : 1 << 16;
        uint8_t *larger = realloc(out->bytes, room);
        if (!larger) refuse("picture", "%zu bytes do not fit into memory: raise `needs.memory` of this step", room);
        out->bytes = larger;
        out->room = room;
    }
    out->bytes[out->len++] = byte;
}

static void put_u32(struct buffer *out, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) put(out, (uint8_t)(value >> shift));
}

static void put_bits(struct buffer *out, uint32_t value, unsigned count) {
    out->bits |= (uint64_t)value << out->n_bits;
    for (out->n_bits += count; out->n_bits >= 8; out->n_bits -= 8, out->bits >>= 8) put(out, (uint8_t)out->bits);
}

/* ---- Huffman codes ---- */

struct code {
    uint8_t len[LITERALS];
    uint16_t bits[LITERALS]; /* already reversed: DEFLATE wants the first bit lowest */
};

/* The lengths of a Huffman code for `count`; returns the longest. */
static unsigned lengths_of(const uint32_t *count, unsigned n, uint8_t *len) {
    uint64_t weight[2 * LITERALS];
    uint16_t parent[2 * LITERALS];
    uint8_t is_root[2 * LITERALS];
    unsigned nodes = n, roots = 0, longest = 0;
    for (unsigned i = 0; i < n; i++) {
        weight[i] = count[i];
        is_root[i] = count[i] > 0;
        roots += is_root[i];
    }
    memset(len, 0, n);
    if (roots == 1) {
        for (unsigned i = 0; i < n; i++) len[i] = is_root[i];
        return 1;
    }
    for (; roots > 1; roots--, nodes++) {
        unsigned least[2];
        for (int k = 0; k < 2; k++) {
            unsigned best = nodes;
            for (unsigned i = 0; i < nodes; i++) {
                if (is_root[i] && (best == nodes || weight[i] < weight[best])) best = i;
            }
            least[k] = best;
            is_root[best] = 0;
            parent[best] = (uint16_t)nodes;
        }
        weight[nodes] = weight[least[0]] + weight[least[1]];
        is_root[nodes] = 1;
    }
    for (unsigned i = 0; i < n && nodes > n; i++) {
        if (count[i] == 0) continue;
        unsigned depth = 0;
        for (unsigned node = i; node != nodes - 1; node = parent[node]) depth++;
        len[i] = (uint8_t)depth;
        if (depth > longest) longest = depth;
    }
    return longest;
}

static void make_code(struct code *code, uint32_t *count, unsigned n, unsigned bits_max) {
    /* Halving the counts flattens the tree; with all of them 1 it has 9 levels, so this ends. */
    while (lengths_of(count, n, code->len) > bits_max) {
        for (unsigned i = 0; i < n; i++) count[i] = (count[i] + 1) / 2;
    }
    uint16_t next = 0;
    for (unsigned len = 1; len <= bits_max; len++, next = (uint16_t)(next << 1)) {
        for (unsigned i = 0; i < n; i++) {
            if (code->len[i] != len) continue;
            uint16_t reversed = 0;
            for (unsigned bit = 0; bit < len; bit++) reversed |= (uint16_t)(((next >> bit) & 1) << (len - 1 - bit));
            code->bits[i] = reversed;
            next++;
        }
    }
}

/* ---- DEFLATE ---- */

struct token {
    uint16_t length;   /* 0: a literal */
    uint16_t distance; /* or the literal */
};

static const uint16_t LENGTH_BASE[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                         31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t LENGTH_EXTRA[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t DISTANCE_BASE[DISTANCES] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                                  193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};

static unsigned length_symbol(unsigned length) {
    unsigned i = 28;
    while (LENGTH_BASE[i] > length) i--;
    return i;
}

static unsigned distance_symbol(unsigned distance) {
    unsigned i = DISTANCES - 1;
    while (DISTANCE_BASE[i] > distance) i--;
    return i;
}

static void put_code_lengths(struct buffer *out, const struct code *literal, const struct code *distance) {
    static const uint8_t ORDER[LENGTH_CODES] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint32_t count[LENGTH_CODES] = {0};
    struct code lengths;
    for (unsigned i = 0; i < LITERALS; i++) count[literal->len[i]]++;
    for (unsigned i = 0; i < DISTANCES; i++) count[distance->len[i]]++;
    make_code(&lengths, count, LENGTH_CODES, LENGTH_CODE_BITS_MAX);
    put_bits(out, LITERALS - 257, 5);
    put_bits(out, DISTANCES - 1, 5);
    put_bits(out, LENGTH_CODES - 4, 4);
    for (unsigned i = 0; i < LENGTH_CODES; i++) put_bits(out, lengths.len[ORDER[i]], 3);
    for (unsigned i = 0; i < LITERALS; i++) put_bits(out, lengths.bits[literal->len[i]], lengths.len[literal->len[i]]);
    for (unsigned i = 0; i < DISTANCES; i++) put_bits(out, lengths.bits[distance->len[i]], lengths.len[distance->len[i]]);
}

static void put_block(struct buffer *out, const struct token *tokens, size_t n, int is_last) {
    uint32_t literals[LITERALS] = {0}, distances[DISTANCES] = {0};
    for (size_t i = 0; i < n; i++) {
        if (tokens[i].length == 0) {
            literals[tokens[i].distance]++;
        } else {
            literals[257 + length_symbol(tokens[i].length)]++;
            distances[distance_symbol(tokens[i].distance)]++;
        }
    }
    literals[END_OF_BLOCK]++;
    struct code literal, distance;
    make_code(&literal, literals, LITERALS, CODE_BITS_MAX);
    make_code(&distance, distances, DISTANCES, CODE_BITS_MAX);
    put_bits(out, (uint32_t)is_last, 1);
    put_bits(out, 2, 2);
    put_code_lengths(out, &literal, &distance);
    for (size_t i = 0; i < n; i++) {
        struct token token = tokens[i];
        if (token.length == 0) {
            put_bits(out, literal.bits[token.distance], literal.len[token.distance]);
            continue;
        }
        unsigned l = length_symbol(token.length), d = distance_symbol(token.distance);
        put_bits(out, literal.bits[257 + l], literal.len[257 + l]);
        put_bits(out, token.length - LENGTH_BASE[l], LENGTH_EXTRA[l]);
        put_bits(out, distance.bits[d], distance.len[d]);
        put_bits(out, token.distance - DISTANCE_BASE[d], d < 4 ? 0 : d / 2 - 1);
    }
    put_bits(out, literal.bits[END_OF_BLOCK], literal.len[END_OF_BLOCK]);
}

static uint32_t hash(const uint8_t *p) {
    return (((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24) * 2654435761u) >> (32 - HASH_BITS);
}

static unsigned match_len(const uint8_t *bytes, size_t earlier, size_t here, size_t len) {
    unsigned n = 0;
    while (n < MATCH_MAX && here + n < len && bytes[earlier + n] == bytes[here + n]) n++;
    return n;
}

static void deflate(struct buffer *out, const uint8_t *bytes, size_t len) {
    struct token *tokens = claim(BLOCK_TOKENS * sizeof *tokens);
    uint32_t *seen = claim(sizeof *seen << HASH_BITS); /* position + 1 of the last bytes with this hash */
    memset(seen, 0, sizeof *seen << HASH_BITS);
    size_t n = 0, here = 0;
    while (here < len) {
        unsigned found = 0, distance = 0;
        if (here + MATCH_MIN <= len) {
            uint32_t *slot = &seen[hash(bytes + here)];
            if (*slot && here + 1 - *slot <= WINDOW) {
                distance = (unsigned)(here + 1 - *slot);
                found = match_len(bytes, here - distance, here, len);
            }
            *slot = (uint32_t)here + 1;
        }
        int is_match = found >= MATCH_MIN;
        tokens[n++] = is_match ? (struct token){(uint16_t)found, (uint16_t)distance} : (struct token){0, bytes[here]};
        here += is_match ? found : 1;
        if (n == BLOCK_TOKENS && here < len) {
            put_block(out, tokens, n, 0);
            n = 0;
        }
    }
    put_block(out, tokens, n, 1);
    if (out->n_bits > 0) put_bits(out, 0, 8 - out->n_bits);
    free(tokens);
    free(seen);
}

static uint32_t adler32(const uint8_t *bytes, size_t len) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < len; i++) {
        a = (a + bytes[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static uint32_t crc32(const uint8_t *bytes, size_t len) {
    static uint32_t table[256];
    if (table[1] == 0) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
            table[i] = c;
        }
    }
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < len; i++) crc = table[(crc ^ bytes[i]) & 0xFF] ^ crc >> 8;
    return ~crc;
}

/* ---- PNG ---- */

static void put_chunk(struct buffer *out, const char *type, const uint8_t *bytes, size_t len) {
    put_u32(out, (uint32_t)len);
    size_t start = out->len;
    for (int i = 0; i < 4; i++) put(out, (uint8_t)type[i]);
    for (size_t i = 0; i < len; i++) put(out, bytes[i]);
    put_u32(out, crc32(out->bytes + start, len + 4));
}

static uint8_t predicted(unsigned filter, int left, int up, int corner) {
    int p = left + up - corner, to_left = abs(p - left), to_up = abs(p - up), to_corner = abs(p - corner);
    switch (filter) {
        case 1: return (uint8_t)left;
        case 2: return (uint8_t)up;
        case 3: return (uint8_t)((left + up) / 2);
        case 4: return (uint8_t)(to_left <= to_up && to_left <= to_corner ? left : to_up <= to_corner ? up : corner);
        default: return 0;
    }
}

/* Filters one row and returns the sum of the residuals' magnitudes, the usual measure of how well it will pack. */
static uint64_t filter_row(unsigned filter, const uint8_t *row, const uint8_t *above, size_t stride, unsigned channels, uint8_t *out) {
    uint64_t sum = 0;
    out[0] = (uint8_t)filter;
    for (size_t i = 0; i < stride; i++) {
        int left = i < channels ? 0 : row[i - channels], up = above ? above[i] : 0;
        int corner = above && i >= channels ? above[i - channels] : 0;
        uint8_t residual = (uint8_t)(row[i] - predicted(filter, left, up, corner));
        out[i + 1] = residual;
        sum += residual < 128 ? residual : 256u - residual;
    }
    return sum;
}

void write_png(const char *path, const uint8_t *pixels, uint32_t width, uint32_t height, unsigned channels) {
    size_t stride = (size_t)width * channels;
    uint8_t *rows = claim((stride + 1) * height), *trial = claim(stride + 1);
    for (uint32_t y = 0; y < height; y++) {
        const uint8_t *row = pixels + y * stride, *above = y ? row - stride : NULL;
        uint64_t least = UINT64_MAX;
        for (unsigned filter = 0; filter < 5; filter++) {
            uint64_t sum = filter_row(filter, row, above, stride, channels, trial);
            if (sum >= least) continue;
            least = sum;
            memcpy(rows + y * (stride + 1), trial, stride + 1);
        }
    }
    struct buffer packed = {0};
    put(&packed, 0x78); /* zlib: DEFLATE with a 32 KiB window, then the check bits */
    put(&packed, 0x01);
    deflate(&packed, rows, (stride + 1) * height);
    put_u32(&packed, adler32(rows, (stride + 1) * height));

    struct buffer out = {0}, head = {0};
    static const uint8_t SIGNATURE[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    for (size_t i = 0; i < sizeof SIGNATURE; i++) put(&out, SIGNATURE[i]);
    put_u32(&head, width);
    put_u32(&head, height);
    put(&head, 8);                     /* bits per channel */
    put(&head, channels == 3 ? 2 : 0); /* RGB or grey */
    for (int i = 0; i < 3; i++) put(&head, 0);
    put_chunk(&out, "IHDR", head.bytes, head.len);
    put_chunk(&out, "IDAT", packed.bytes, packed.len);
    put_chunk(&out, "IEND", NULL, 0);
    write_file(path, out.bytes, out.len);
    free(rows);
    free(trial);
    free(packed.bytes);
    free(head.bytes);
    free(out.bytes);
}
