// A page opened as a file may start no Worker. There, the worker's script runs in a hidden frame of the page instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      inside.postMessage = (data) => this.tell("message", { data })
      const script = inside.document.createElement("script")
      this.loaded = new Promise((done) => { script.onload = done })
      script.onerror = () => this.tell("error", { message: `cannot load ${url}` })
      script.src = new URL(url, document.baseURI)
      inside.document.body.append(script)
    }
    tell(kind, init) {
      const event = new (kind === "error" ? ErrorEvent : MessageEvent)(kind, init)
      this[`on${kind}`]?.(event)
      this.dispatchEvent(event)
    }
    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) })))
    }
    terminate() { this.frame.remove() }
  }
}
