/// Why a program could not run on. Holds numbers of commands, windows and blocks; never data.
package struct ExecutorError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// The device has no memory or threads left to give.
        case unavailable
        /// No such program, or too many.
        case program
        /// A doorbell came while another one's work runs.
        case busy
        /// The run was called off.
        case cancelled
        /// A window's bytes could not be had or put.
        case window
        /// A sealed block is not the one that belongs there, or not its latest.
        case tampered
        /// A block was asked for that this run has not written.
        case unwritten
        /// Row pointers or neighbours that are not a graph's.
        case topology
        /// A label that is no class, or an unknown split.
        case label
        /// Row chunks did not come in ascending order, or not all of them came.
        case chunkOrder
        /// More figures or sealed blocks than a completion holds.
        case completion
    }
    package let code: Code
    package let publicDescription: String
    package let command: Int?

    package init(_ code: Code, _ publicDescription: String, command: Int? = nil) {
        self.code = code
        self.publicDescription = publicDescription
        self.command = command
    }

    package var description: String {
        "\(code.rawValue): " + (command.map { "command \($0): " } ?? "") + publicDescription
    }

    func at(command: Int) -> ExecutorError { ExecutorError(code, publicDescription, command: self.command ?? command) }
}
