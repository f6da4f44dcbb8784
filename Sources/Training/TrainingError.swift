/// Why a training run could not start or go on. Holds no data.
package struct TrainingError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case classCountsMissing = "class-counts-missing"
        /// The device answered with something that is not a completion of what it was asked.
        case deviceAnswer = "device-answer"
        /// The loss is not a finite number any more.
        case diverged
        case programRefused = "program-refused"
        /// The weights that came back are not finite or not of the model's shape.
        case badWeights = "bad-weights"
        /// A checkpoint that is not one of this run, or cannot be opened.
        case badCheckpoint = "bad-checkpoint"
    }

    package let code: Code
    package let publicDescription: String

    package init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    package var description: String { publicDescription }
}
