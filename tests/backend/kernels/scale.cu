extern "C" __global__ void scale() {}
