import Vocabulary

/// The safetensors file format (huggingface/safetensors, "Format"): header length, JSON header, tensors back to back.
///
/// The bytes depend on names, shapes and values only: members sorted, header padded with spaces to 8 bytes.
package enum Safetensors {
    package struct Tensor: Hashable, Sendable {
        package let name: String
        package let shape: [Int]
        package let values: [Float]

        package init(name: String, shape: [Int], values: [Float]) {
            precondition(shape.reduce(1, *) == values.count)
            self.name = name
            self.shape = shape
            self.values = values
        }
    }

    /// `metadata` becomes the header's `__metadata__`.
    package static func encode(_ tensors: [Tensor], metadata: [String: String]) -> [UInt8] {
        var members: [String: JSON] = ["__metadata__": .object(metadata.mapValues { .string($0) })]
        var offset = 0
        for tensor in tensors {
            let end = offset + tensor.values.count * 4
            members[tensor.name] = [
                "dtype": "F32", "shape": .array(tensor.shape.map { .integer(Int64($0)) }),
                "data_offsets": [.integer(Int64(offset)), .integer(Int64(end))],
            ]
            offset = end
        }
        var header = JSON.object(members).canonical
        while !header.count.isMultiple(of: 8) { header.append(UInt8(ascii: " ")) }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(8 + header.count + offset)
        withUnsafeBytes(of: UInt64(header.count).littleEndian) { bytes += $0 }
        bytes += header
        for tensor in tensors {
            for value in tensor.values { withUnsafeBytes(of: value.bitPattern.littleEndian) { bytes += $0 } }
        }
        return bytes
    }
}
