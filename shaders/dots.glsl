// Both factors of a product as signed bytes, four a word, for packed dot products: rows of x as quantize.comp leaves them (abi.h), and
// the quants of packed weights in the same order. Comes after weights.glsl and linear.glsl; a.x_stride is in words here.
#extension GL_EXT_integer_dot_product : require

layout(binding = 2) readonly buffer XPairs {
    uvec2 x_pairs[]; // (n, x_stride / 2): 8 columns of a plane each
};
layout(binding = 2) readonly buffer XQuads {
    uvec4 x_quads[]; // the same, 16 columns at a time
};

const uint PLANES = (EPILOGUE & PM_LINEAR_NORM) != 0 ? 2 : 1; // of bytes; a product of numbers is 256 times that of the first and that of the second

// What stands for zero in weights_bytes.
#if defined(W_Q4_0)
#define W_BYTE_ZERO 8
#else
#define W_BYTE_ZERO W_ZERO
#endif
// Parts of a block with a scale of their own.
const uint PARTS = W_SCALES == 2 ? 2 : 1;

// Of a block of a row of x: the scale, and the sum of its whole numbers in each part.
struct x_affine {
    float scale;
    ivec2 sums;
};

x_affine x_affine_of(uint row, uint block) {
    uvec4 words = x_quads[row * (a.x_stride / 4) + PLANES * a.blocks * (PM_BLOCK / 16) + block];
    ivec2 sums = ivec2(words.yz);
    return x_affine(uintBitsToFloat(words.x), PARTS == 2 ? sums : ivec2(sums.x + sums.y));
}

// Where a block of a plane begins, in words.
uint x_at(uint row, uint plane, uint block) {
    return row * a.x_stride + (plane * a.blocks + block) * (PM_BLOCK / 4);
}

// The quants of 8 columns, W_BYTE_ZERO above what they are. low: the words of their low bits; high: their high bits, from bit 0 up.
// Types of bytes leave them in order; of others the first word has columns 0, 2, 4, 6, which takes one mask.
uvec2 weights_bytes(uvec2 low, uint high) {
#if W_LOW == 8
    return low;
#else
#if defined(W_Q4_0)
    low.x ^= 0x88888888u;
#endif
    uvec2 q = uvec2(low.x, low.x >> 4) & 0x0f0f0f0fu;
#if W_HIGH == 1 // bits 2k, 2k + 1 go to byte k
    high &= 0xffu;
    high = (high | high << 12) & 0x000f000fu;
    high = (high | high << 6) & 0x03030303u;
    q |= uvec2(high << 4, high << 3) & 0x10101010u;
#elif W_HIGH == 2 // four bits to each
    high &= 0xffffu;
    high = (high | high << 8) & 0x00ff00ffu;
    high = (high | high << 4) & 0x0f0f0f0fu;
    q |= uvec2(high << 4, high << 2) & 0x30303030u;
#endif
    return q;
#endif
}

// Columns 8i .. 8i+7 of a block that was loaded; i must be constant after unrolling.
uvec2 weights_bytes_of(packed_block p, uint i) {
#if W_LOW == 8
    uvec2 low = i % 2 == 0 ? p.low[i / 2].xy : p.low[i / 2].zw;
#else
    uvec2 low = uvec2(p.low[0][i], 0);
#endif
    return weights_bytes(low, W_HIGH == 2 ? p.high[i / 2] >> i % 2 * 16 : W_HIGH == 1 ? p.high.x >> i * 8 : 0u);
}

// The same straight from memory; i may vary.
uvec2 weights_bytes_at(uint row, uint block, uint blocks, uint i) {
    uint at = low_at(row, block, blocks);
#if W_LOW == 8
    return weights_bytes(weight_pairs[at / 2 + i], 0);
#elif W_HIGH == 2
    return weights_bytes(uvec2(weight_words[at + i], 0), weight_words[high_at(row, block, blocks) + i / 2] >> i % 2 * 16);
#elif W_HIGH == 1
    return weights_bytes(uvec2(weight_words[at + i], 0), weight_words[high_at(row, block, blocks)] >> i * 8);
#else
    return weights_bytes(uvec2(weight_words[at + i], 0), 0);
#endif
}

int dot_eight(uvec2 w, uvec2 v, int sum) {
    sum += dotPacked4x8EXT(int(w.x), int(v.x));
    return sum + dotPacked4x8EXT(int(w.y), int(v.y));
}
