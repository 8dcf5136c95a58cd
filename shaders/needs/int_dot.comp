// a newer glslang has GL_EXT_integer_dot_product, Debian 13's 15.1 was tried
#version 450
#extension GL_EXT_integer_dot_product : require
layout(local_size_x = 1) in;
layout(binding = 0) buffer Y {
    int y;
};
void main() {
    y = dotPacked4x8EXT(y, y);
}
