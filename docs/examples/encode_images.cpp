// Runs the first graph of an exported model with onnxruntime's C++ API: what a vehicle without Python begins with.
//
//     g++ -std=c++17 encode_images.cpp -I $ONNXRUNTIME/include -L $ONNXRUNTIME/lib -lonnxruntime -o encode_images
//     ./encode_images out/sim/camera.onnx 6 128 352
//
// The same lines run lidar.onnx, radar.onnx and objects.onnx with the inputs that docs/export.md lists; between them
// lies the pooling of perception/export/pooling.py. The images here are grey: put your own into `images`.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: encode_images camera.onnx CAMERAS HEIGHT WIDTH\n";
    return 2;
  }
  const int64_t cameras = std::atoll(argv[2]), height = std::atoll(argv[3]), width = std::atoll(argv[4]);
  try {
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "perception");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(2);
    Ort::Session session(env, argv[1], options);

    Ort::AllocatorWithDefaultOptions allocator;
    auto card = session.GetModelMetadata().LookupCustomMetadataMapAllocated("perception", allocator);
    std::cout << (card ? card.get() : "no card: not an exported model") << "\n";

    std::vector<uint8_t> images(cameras * 3 * height * width, 128);                // RGB, planes one after the other
    std::vector<float> intrinsics(cameras * 9), poses(cameras * 16);               // row by row
    for (int64_t n = 0; n < cameras; ++n) {
      const float k[9] = {300, 0, width / 2.0f, 0, 300, height / 2.0f, 0, 0, 1};
      const float ego_SE3_camera[16] = {0, 0, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1.5, 0, 0, 0, 1};  // one looking ahead
      std::copy(k, k + 9, intrinsics.begin() + 9 * n);
      std::copy(ego_SE3_camera, ego_SE3_camera + 16, poses.begin() + 16 * n);
    }
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const int64_t image_shape[] = {1, cameras, 3, height, width};
    const int64_t intrinsics_shape[] = {1, cameras, 3, 3}, pose_shape[] = {1, cameras, 4, 4};
    std::vector<Ort::Value> inputs;
    inputs.push_back(Ort::Value::CreateTensor<uint8_t>(memory, images.data(), images.size(), image_shape, 5));
    inputs.push_back(
        Ort::Value::CreateTensor<float>(memory, intrinsics.data(), intrinsics.size(), intrinsics_shape, 4));
    inputs.push_back(Ort::Value::CreateTensor<float>(memory, poses.data(), poses.size(), pose_shape, 4));

    const char* in[] = {"images", "intrinsics", "ego_SE3_camera"};
    const char* out[] = {"context", "depth", "features.0", "features.1"};
    const auto found = session.Run(Ort::RunOptions{nullptr}, in, inputs.data(), 3, out, 4);
    for (size_t i = 0; i < found.size(); ++i) {
      std::cout << out[i] << ":";
      for (const int64_t side : found[i].GetTensorTypeAndShapeInfo().GetShape()) std::cout << " " << side;
      std::cout << "\n";
    }
  } catch (const Ort::Exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
